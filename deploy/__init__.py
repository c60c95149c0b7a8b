"""How Liveroll is put on machines: units, container, scrape configuration, and the local demo."""
