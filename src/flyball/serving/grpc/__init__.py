"""The Open Inference Protocol over gRPC, answered by the same gateway as HTTP. Needs the extra `grpc`."""

from flyball.serving.grpc.service import SERVICE, Service

__all__ = ["SERVICE", "Service"]
