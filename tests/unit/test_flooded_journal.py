"""A journal whose phones share it with a stranger who registers all the time: a server with phone and core in hand."""

from pathlib import Path

from pcscf.observe import MessageSeen, SetChanged, SetEvent
from pcscf.vocabulary import Interface
from tests.bench.load import Phone
from tests.unit.driven import AT_CORE, Driven, challenge_to, drive

FLOOD = 600


def test_challenges_that_a_stranger_leaves_unanswered_do_not_fill_the_journal(tmp_path: Path) -> None:
    """Step 1, 9: with the IMPI and the Call-ID of a phone; what the phone does meanwhile is written."""

    async def work(driven: Driven) -> None:
        phone, stranger = Phone(1), Phone(2)
        call_id = next(line for line in phone.register(5070).split(b"\r\n") if line.startswith(b"Call-ID: "))

        def forged(octets: bytes) -> bytes:
            lines = stranger.register(5070).split(b"\r\n")
            own = next(line for line in lines if line.startswith(b"Call-ID: "))
            return octets.replace(own, call_id).replace(stranger.user.encode(), phone.user.encode())

        assert driven.register(phone)
        before = driven.server.journal.written
        for _ in range(FLOOD):
            driven.challenge(stranger, of_ue=forged)
        written = driven.server.journal.written - before
        assert written < 1200, "2 messages in clear, 2 with the core, an attempt and 2 steps each would be 4,200"
        steps = driven.server.tally.events
        assert steps["installed"] + steps["superseded"] >= 2 * FLOOD - 2, "all was done, and is counted"
        before = driven.server.journal.written
        driven.rounds += 1
        offer = phone.answer().replace(b"spi-c=10002", b"spi-c=20002").replace(b"spi-s=10003", b"spi-s=20003")
        driven.receive(driven.anew(offer), driven.protected(phone))
        request = driven.to_core()
        assert request is not None
        driven.challenge(stranger, of_ue=forged)
        driven.receive(challenge_to(request), AT_CORE)
        driven.challenge(stranger, of_ue=forged)
        records = [each for _, each in driven.server.journal.after(before)]
        seen = [(each.summary, each.flow.interface) for each in records if isinstance(each, MessageSeen)]
        for wanted in (
            ("REGISTER", Interface.GM_PROTECTED),
            ("REGISTER", Interface.MW),
            ("401 Unauthorized", Interface.MW),
            ("401 Unauthorized", Interface.GM_PROTECTED),
        ):
            assert seen.count(wanted) == 1, (wanted, seen)
        assert [each.event for each in records if isinstance(each, SetChanged)] == [SetEvent.INSTALLED]

    drive(tmp_path, work)
