"""Metrics for Prometheus, made when somebody asks for them: what is counted as it happens, and what is true now.

Nothing here costs a message anything. No label names a UE, so that the number of series stays what it is.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from pcscf.admin.feed import Feed
from pcscf.admin.views import Inside
from pcscf.printable import printable
from pcscf.registration import SetState
from pcscf.tally import Latency
from xfrm.model import XfrmError

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The metrics of one P-CSCF; `text` is the exposition."""

    def __init__(self, inside: Inside, feed: Feed) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Pcscf(inside, feed))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Pcscf(Collector):
    def __init__(self, inside: Inside, feed: Feed) -> None:
        self._inside = inside
        self._feed = feed

    def collect(self) -> Iterator[Metric]:
        inside, tally = self._inside, self._inside.tally
        status = inside.status
        yield _info("pcscf_build_info", "The P-CSCF and its ESP backend; always 1.", version=status.version,
                    backend=status.backend)  # fmt: skip
        yield _counter(
            "pcscf_requests", "Requests by method and the status of their final answer, of UEs and of the core.",
            ("method", "status"),
            (((method, str(code)), count) for (method, code), count in sorted(tally.outcomes.items())),
        )  # fmt: skip
        yield _histogram(
            "pcscf_challenge_duration_seconds",
            "From a REGISTER to its 401 leaving: the core's answer and the installation of the SAs included.",
            tally.challenge,
        )
        yield _gauge("pcscf_registrations", "Contacts that are registered.", status.registered)
        states = inside.registrar.states
        yield _gauges(
            "pcscf_sa_sets", "Live sets of four SAs, by state.", ("state",),
            (((state.value,), states[state]) for state in SetState if state is not SetState.GONE),
        )  # fmt: skip
        yield _gauge("pcscf_sas_believed", "SAs that should be in the backend: four for each live set.",
                     4 * status.sets)  # fmt: skip
        yield _gauge(
            "pcscf_sas",
            "SAs in the backend; the kernel counts those of every IPsec user in the network namespace.",
            status.sas,
        )
        yield _counter(
            "pcscf_registration_events", "What happened to registrations and sets of SAs.", ("event",),
            (((event,), count) for event, count in sorted(tally.events.items())),
        )  # fmt: skip
        yield _counter("pcscf_problems", "Messages refused or lost, and other trouble; the journal says which.", (),
                       [((), tally.problems)])  # fmt: skip
        yield _counter(
            "pcscf_clear_datagrams_lost", "Datagrams in clear from phones that there was no time to look at.", (),
            [((), status.clear_lost)],
        )  # fmt: skip
        yield _counter(
            "pcscf_guards_lost", "How often a guard of the protected ports was found gone.", (),
            [((), status.guards_lost)],
        )  # fmt: skip
        yield _gauge("pcscf_protected_ports_served", "1 while all guards of the protected ports are there.",
                     not status.fault)  # fmt: skip
        yield _counter(
            "pcscf_backend_errors", "What the ESP backend (netlink, for the kernel) refused, by operation.",
            ("operation",),
            (((each,), tally.backend_errors[each]) for each in ("install", "update", "remove", "expirations")),
        )  # fmt: skip
        yield from self._drops()
        yield _gauge("pcscf_transactions", "SIP transactions that are not over.", status.transactions)
        yield _gauge("pcscf_passages", "Requests on their way through that are not over.", status.passages)
        yield _gauge("pcscf_dialogs", "Calls and subscriptions.", status.dialogs)
        yield _gauge("pcscf_flows", "Open TCP connections on Gm and Mw.", status.connections)
        yield _gauges(
            "pcscf_next_hop_up", "1 if requests may go to this next hop.", ("hop",),
            (((each.name,), float(each.state.value == "active")) for each in inside.hops.hops()),
        )  # fmt: skip
        journal = inside.journal
        yield _counter("pcscf_journal_records", "Records written to the journal.", (), [((), journal.written)])
        yield _counter("pcscf_journal_lost", "Records that the ring no longer holds.", (), [((), journal.lost)])
        yield _gauge("pcscf_streams", "Open event streams.", len(self._feed))
        yield _gauge("pcscf_event_loop_lag_seconds", "By how much the event loop was late within the last second.",
                     tally.lag)  # fmt: skip
        yield _gauge("pcscf_event_loop_lag_max_seconds", "The most by which it was late since the start.",
                     tally.worst_lag)  # fmt: skip

    def _drops(self) -> Iterator[Metric]:
        try:
            drops = self._inside.drops()
        except (OSError, XfrmError):
            return
        yield _counter(
            "pcscf_esp_drops", "Packets thrown away, by cause: names of the kernel, or of the userspace backend.",
            ("cause",), (((cause,), count) for cause, count in sorted(drops.items())),
        )  # fmt: skip


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value=value)


def _gauges(name: str, told: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    made = GaugeMetricFamily(name, told, labels=labels)
    for values, value in rows:
        made.add_metric(tuple(map(printable, values)), value)
    return made


def _counter(name: str, told: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    made = CounterMetricFamily(name, told, labels=labels)
    for values, value in rows:
        made.add_metric(tuple(map(printable, values)), value)
    return made


def _info(name: str, told: str, **labels: str) -> Metric:
    made = GaugeMetricFamily(name, told, labels=tuple(labels))
    made.add_metric(tuple(labels.values()), 1)
    return made


def _histogram(name: str, told: str, latency: Latency) -> Metric:
    buckets: list[tuple[str, float]] = []
    passed = 0
    for bound, count in zip((*map(str, latency.bounds), "+Inf"), latency.counts, strict=True):
        passed += count
        buckets.append((bound, passed))
    return HistogramMetricFamily(name, told, buckets=buckets, sum_value=latency.total)
