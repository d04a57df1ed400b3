"""Looking inside any ``nn.Module``: addresses, recording, backward rules, receptive fields. Knows no method."""
