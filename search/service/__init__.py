"""Studies over HTTP: launch, follow, stop, resume, fetch; every call with a token, every study a process of its own."""
