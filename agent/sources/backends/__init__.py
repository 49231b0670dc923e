"""The backends, one module each. `agent.sources.BACKENDS` names their classes."""
