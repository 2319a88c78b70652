"""The command line, `bk-pipeline`: one file a verb, thin over `pipeline` and `defs`."""
