"""The basis of every API: served models, running generations, event logs, log lines, metrics, settings."""
