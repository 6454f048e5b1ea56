"""What Prometheus, Alertmanager and Grafana are to know of the mesh."""
