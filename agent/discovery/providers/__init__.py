"""The providers of facts, one file each. `agent.discovery.PROVIDERS` names them."""
