"""The basis of every API: served models, running generations, event logs, logs, metrics, settings."""
