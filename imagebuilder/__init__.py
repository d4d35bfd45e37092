"""Stock image in, customised image and node deltas out. Of ours it imports only ``fleet``'s pure models."""
