"""A table that many peers share: what each may take, and what gives way (step 1, 5)."""

import pytest

from pcscf.sip.share import Share


def enter(share: Share[str], peer: str, name: str) -> str:
    """Enter one, with room made if need be: what had to go, "full" where there is no room."""
    went = ""
    if not share.has_room(peer):
        spare = share.giving_way(peer)
        if spare is None:
            return "full"
        share.remove(spare[0], spare)
        went = spare
    assert share.has_room(peer)
    share.add(peer, name)
    return went


@pytest.fixture
def share() -> Share[str]:
    """Four entries, two of one peer; the first letter of an entry is its peer."""
    return Share(4, 2)


def test_a_peer_has_its_part(share: Share[str]) -> None:
    """Step 1, 5: what it still needs is not taken from it, and it can take nobody else's."""
    assert [enter(share, "a", name) for name in ("a1", "a2", "a3")] == ["", "", "full"]
    assert [enter(share, "b", name) for name in ("b1", "b2")] == ["", ""]
    assert enter(share, "c", "c1") == "full" and len(share) == 4 and share.peers == 2


def test_what_has_served_gives_way_the_oldest_first(share: Share[str]) -> None:
    """Step 1, 5."""
    for name in ("a1", "a2"):
        enter(share, "a", name)
    share.serve("a", "a2")
    share.serve("a", "a1")
    assert [enter(share, "a", name) for name in ("a3", "a4", "a5")] == ["a2", "a1", "full"]


def test_its_own_goes_before_anybody_elses(share: Share[str]) -> None:
    """Step 1, 5: where the table is full, a peer that holds something that has served loses that."""
    for name in ("a1", "a2", "b1", "c1"):
        enter(share, name[0], name)
    for name in ("a1", "b1"):
        share.serve(name[0], name)
    assert enter(share, "b", "b2") == "b1"
    assert enter(share, "d", "d1") == "a1"
    assert enter(share, "d", "d2") == "full"


def test_what_is_over_leaves_nothing(share: Share[str]) -> None:
    """Step 1, 5: no peer is remembered that holds nothing."""
    for number in range(100):
        name = f"{number}x"
        enter(share, str(number), name)
        share.serve(str(number), name)
        share.remove(str(number), name)
    assert len(share) == share.peers == 0 and share.giving_way("a") is None


def test_less_than_is_held_lets_nobody_in(share: Share[str]) -> None:
    """The operator may lower the limits of a running P-CSCF."""
    for name in ("a1", "a2", "b1"):
        enter(share, name[0], name)
    share.serve("b", "b1")
    share.limit = 1
    share.remove("b", "b1")
    assert not share.has_room("b") and share.giving_way("b") is None
    share.limit, share.of_one = 4, 0
    assert not share.has_room("c")
