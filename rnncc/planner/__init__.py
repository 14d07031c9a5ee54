"""The planner: structure, shape and machine -> the solver of a call and how it cuts its work."""
