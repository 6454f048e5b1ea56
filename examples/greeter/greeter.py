"""A service in plain grpcio, without any code of the mesh: it listens on MESH_HOST and PORT, and stops on SIGTERM."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
import hello_pb2
import hello_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


class Hello(hello_pb2_grpc.HelloServicer):
    def SayHello(self, request, context):
        return hello_pb2.SayHelloResponse(message=f"Hello, {request.name}")


def main() -> None:
    # Two servers on one port would share its calls without a word.
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    hello_pb2_grpc.add_HelloServicer_to_server(Hello(), server)

    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = [service.full_name for service in hello_pb2.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)

    server.add_insecure_port(f"{os.environ.get('MESH_HOST', '127.0.0.1')}:{os.environ['PORT']}")
    server.start()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=5))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
