"""What the control process makes of a stream that Envoy tells of."""

from __future__ import annotations

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from gateway.ending import Stream


def test_a_header_that_is_repeated_is_all_of_them_as_it_is_for_envoy() -> None:
    told = ProcessingRequest()
    held = {":path": [b"/shop.v1.Shop/Watch?x"], "x-team": [b"blue", b"red"], "x-user": [b""]}
    for key, values in held.items():
        for value in values:
            told.request_headers.headers.headers.add(key=key, raw_value=value)
    told.attributes["envoy.filters.http.ext_proc"].update({"xds.cluster_name": "order:v2"})
    stream = Stream.of(told)
    assert stream[:2] == ("order", "/shop.v1.Shop/Watch")
    assert (stream.headers["x-team"], stream.headers["x-user"]) == ("blue,red", "")
