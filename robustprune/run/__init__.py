"""The description of a run, its directory, and how an interrupted run is continued."""
