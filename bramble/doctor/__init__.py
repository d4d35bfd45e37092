"""`bramble doctor`: what on this machine and on its network keeps boards from booting.

report    a check's result, and what they add up to
facts     what was read of the machine, as values
gather    reads it; changes nothing
checks    facts in, results out; pure
firewall  would this packet get in? nftables' and iptables' rules, simulated; pure
cli       the command
"""
