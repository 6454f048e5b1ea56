"""Console: takes every program's spans by OTLP, keeps the newest in memory, shows them, and answers Jaeger's query API.

In: `otlp` (gRPC and HTTP) -> `decode` -> `store`, and each span as it is stored -> `facts` -> `pairing` -> `digest`.
Out: `web` behind `access`: Jaeger's API (`search`, `jaeger`), the pages (`pages`, static/) and what they ask for
(`data`: `topology` and `summary` of what is here, `mesh_view` of what the mesh knows, `live` to send it). `server`
opens the three ports.
"""
