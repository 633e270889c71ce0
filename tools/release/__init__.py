"""Released models: their folders under `hub_cards`, laid out exactly like their Hub repositories."""
