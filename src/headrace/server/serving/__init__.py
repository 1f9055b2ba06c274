"""What every API of the server stands on: served models, running generations, logs of events, metrics, settings."""
