"""The commands beside `kedro run`, a file each."""
