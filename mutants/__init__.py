"""
Mutation testing: small changes of the code, each of which a unit test has to notice.

`make mutants` draws 200 mutations of `wire`, `policy`, `cache`, `forwarding`, `upstream` and `downstream` from all that
are possible, makes each in a copy of the tree, and runs the unit tests that execute the changed line until one fails.
It prints a table and what survived, and exits with 1 if fewer than 95 % are killed or known to be equivalent.

    make mutants                                     200 mutations, seed 1
    make mutants ARGS="--seed 2 --count 50"          another sample
    make mutants ARGS="dotproxy/wire/names.py"       of these files or folders only
    make mutants ARGS="--count 0 dotproxy/wire/names.py"    all mutations of one file
    make mutants ARGS="--again"                      what survived the last run, once more

A survivor is one of two things.  Either the line does something that no test asserts: then the test file named after
the module gets an assertion.  Or the mutation changes nothing that can be observed: then it gets an entry in
`mutants/equivalent.toml`, with the reason.  An entry is found by file, function and the text of the line, not by the
number of the line.

The first run takes a minute or two longer: it executes all unit tests under coverage, to learn which test executes
which line.  Later runs repeat that for changed test files and changed modules only.  All files are in `build/mutants`.

Why not a tool from PyPI: cosmic-ray runs one test command for all mutations, here 60 s each; mutmut mutates the bodies
of functions, not the constants beside them.  Neither draws a sample from a seed.
"""
