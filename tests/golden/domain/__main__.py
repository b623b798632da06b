"""`python -m tests.golden.domain`: writes the golden copies of the lifecycle anew. Read the difference before you keep it."""

from tests.golden.domain.render import HERE, everything

for name, text in everything().items():
    (HERE / name).write_text(text)
    print(HERE / name)
