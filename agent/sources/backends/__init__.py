"""The backends, one file each. `agent.sources.BACKENDS` names them."""
