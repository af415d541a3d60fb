"""The command ``mlc_widget``, which is also ``python -m mlc_widget``: one module per subcommand."""
