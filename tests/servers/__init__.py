"""Real servers and strict receivers that tests start on loopback, each a process of its own."""
