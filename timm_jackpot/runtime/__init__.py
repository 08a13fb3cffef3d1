"""What every run stands on: processes, signals, locks, streams, files, progress. Knows no models."""
