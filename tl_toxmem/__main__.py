"""`python -m tl_toxmem`."""

from tl_toxmem.cli import app

app()
