"""What serving stands on, whatever the protocol: where to listen, threads, logs, the store that calls work on."""
