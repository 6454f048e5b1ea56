"""Console: takes every program's spans by OTLP, keeps the newest in memory, answers Jaeger's query API.

In: `otlp` (gRPC and HTTP) -> `decode` -> `store`. Out: `web` -> `search` -> `jaeger`. `server` opens the three ports.
`decode`, `store`, `search` and `jaeger` are pure.
"""
