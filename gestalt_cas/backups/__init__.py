"""Backing a store up and restoring it: `backup.back_up` and `restoring.restore` are the ways in."""
