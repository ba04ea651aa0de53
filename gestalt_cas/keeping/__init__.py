"""What has to stay and what may go, as rows say it: holds, pins, quotas, retention, and what versions reach."""
