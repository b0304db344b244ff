"""A sample in the formats that Prometheus reads. In the master, at each scrape.

prometheus-client is the encoder only; its multiprocess mode would leave a file per pid behind. It costs
50 ms and 4 MiB to import, so this file is imported by the first scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from forkd.metrics.collector import Sample
from forkd.metrics.names import METRICS

#: Of this process, as all clients of Prometheus tell them.
_PROCESS = ProcessCollector(registry=None)


class _Once(Collector):
    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def collect(self) -> Iterable[Metric]:
        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric in METRICS:
            if metric.kind == "histogram":
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for label, (buckets, seconds) in self._sample.histograms[metric.name].items():
                    histogram.add_metric([label] if label else [], buckets, seconds)
                yield histogram
                continue
            family = families[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in self._sample.values[metric.name]:
                family.add_metric(labels, value)
            yield family
        yield from _PROCESS.collect()


def encode(sample: Sample, accept: str) -> tuple[bytes, str]:
    """The body and its content type, in the format that the Accept header asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(sample))
    encoder: Callable[[CollectorRegistry], bytes]
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
