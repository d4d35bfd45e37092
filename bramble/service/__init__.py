"""`bramble serve` as a service of systemd: its unit, and putting it in place.

unit       the text of the units; pure
install    user, files, systemctl
"""
