"""Files with some bytes that are not as they were, for the fuzz tests of the doors."""

from hypothesis import strategies as st


@st.composite
def damaged(
    draw: st.DrawFn,
    contents: st.SearchStrategy[bytes],
    first: int | None = None,
    last: int | None = None,
) -> bytes:
    """One of the contents with some bytes replaced, put in, taken out or cut off.

    Args:
        first, last: Only among so many first or last bytes, where a file describes itself.
    """
    content = draw(contents)
    for _ in range(draw(st.integers(1, 6))):
        low = 0 if last is None else max(0, len(content) - last)
        at = draw(st.integers(low, len(content) if first is None else min(first, len(content))))
        new = draw(st.binary(max_size=9))
        taken = draw(st.sampled_from([0, 1, len(new), len(new), len(new) + 3, len(content)]))
        content = content[:at] + new + content[at + taken :]
    return content
