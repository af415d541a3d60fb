"""What every engine offers: interface, requests, progress, errors. Imports nothing of ours."""
