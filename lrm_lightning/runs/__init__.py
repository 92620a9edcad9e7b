"""What a run is: its directory, its records, where they came from, and its trained network."""
