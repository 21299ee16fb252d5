"""The part that runs bursts: the fork server, the burst and the meters. Torch lives here."""
