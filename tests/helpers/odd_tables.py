"""Tables as nobody would write them, for the fuzz tests of the doors: random types, nulls, doubled columns, and
files with bytes changed.
"""

import io

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pair_files import picture

ROWS = 3
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
PARTS = pa.struct(
    [("role", pa.string()), ("content", pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())])))]
)
TEXTS = st.sampled_from(
    ["", " ", "a", "b", "What?", "1", "user", "assistant", "gone.png", "\0", "é\u2028", "x" * 999]
)
IMAGES = st.fixed_dictionaries(
    {
        "bytes": st.sampled_from([None, b"", b"no picture", picture(0), picture(1)[:60]]),
        "path": TEXTS | st.none(),
    }
)
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "image", None]), "text": TEXTS | st.none()})
ROLES = st.sampled_from(["user", "assistant", "User", None])
VALUES = {
    pa.string(): TEXTS,
    pa.large_string(): TEXTS,
    pa.string_view(): TEXTS,
    pa.binary(): st.sampled_from([b"", b"\xff\xfe", b"a", picture(0)]),
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats() | st.sampled_from([0.0, 1.0, 2.0]),
    pa.bool_(): st.booleans(),
    pa.decimal128(20, 2): st.decimals(-9, 9, places=2),
    pa.timestamp("us"): st.integers(-(2**62), 2**62),
    pa.date32(): st.integers(-(2**30), 2**30),
    pa.null(): st.none(),
    pa.list_(pa.string()): st.lists(TEXTS, max_size=2),
    pa.map_(pa.string(), pa.int64()): st.lists(st.tuples(TEXTS, st.integers(0, 9)), max_size=2),
    pa.struct([("width", pa.int64())]): st.fixed_dictionaries({"width": st.integers(0, 9)}),
    IMAGE: IMAGES,
    pa.list_(IMAGE): st.lists(IMAGES, max_size=2),
    pa.list_(MESSAGE): st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), max_size=2),
    pa.list_(PARTS): st.lists(
        st.fixed_dictionaries({"role": ROLES, "content": st.lists(PART, max_size=2)}) | st.none(), max_size=2
    ),
}  # fmt: skip


@st.composite
def columns(draw: st.DrawFn, dtype: pa.DataType | None = None) -> pa.Array:
    """A column of this type, or of any."""
    dtype = draw(st.sampled_from(list(VALUES))) if dtype is None else dtype
    nulls = st.none() if draw(st.booleans()) else VALUES[dtype]
    values = draw(st.lists(VALUES[dtype] | nulls, min_size=ROWS, max_size=ROWS))
    column = pa.array(values, dtype)
    return column.dictionary_encode() if dtype == pa.string() and draw(st.booleans()) else column


@st.composite
def tables(draw: st.DrawFn, usual: dict[str, pa.DataType]) -> pa.Table:
    """A table with most of these columns, most of them of their types, perhaps with others or doubled ones."""
    names: list[str] = []
    arrays: list[pa.Array] = []
    for name, dtype in usual.items():
        for _ in range(draw(st.sampled_from([1] * 20 + [0, 2]))):
            odd = draw(st.integers(0, 5)) == 0
            names.append(name)
            arrays.append(draw(columns(None if odd else dtype)))
    for _ in range(draw(st.integers(0, 2))):
        names.append(draw(st.sampled_from(["extra", "Image", "", "idx"])))
        arrays.append(draw(columns()))
    rows = pa.Table.from_arrays(arrays, names)
    return rows.slice(0, draw(st.sampled_from([ROWS, ROWS, 0])))


def parquet_bytes(rows: pa.Table) -> bytes:
    """The table as a file; one that Arrow can't write becomes an empty table."""
    sink = io.BytesIO()
    try:
        pq.write_table(rows, sink)
    except pa.ArrowException:
        sink = io.BytesIO()
        pq.write_table(pa.table({}), sink)
    return sink.getvalue()
