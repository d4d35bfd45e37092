"""Why does this board not boot? Pure rules over what the netboot server saw of one board.

    history   what was seen of each board, folded and bounded
    rules_*   one function for each problem: history in, evidence and mend out
    catalogue the list of all rules
    engine    when the rules run, and what is said once
    era       how old a bootloader is, by what it says
    sizes     files that an old bootloader can not take, said before it tries

Nothing here opens a file or a socket, or looks at a clock.
"""
