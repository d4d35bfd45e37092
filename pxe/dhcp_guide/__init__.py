"""`dhcp: off`: what the user's own DHCP server has to say, in the words of its configuration."""
