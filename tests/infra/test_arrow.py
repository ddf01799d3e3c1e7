"""pyarrow in the processes of this project."""

import subprocess
import sys

CONVERSIONS = """
import sys
from infra.arrow import forgo_pandas

forgo_pandas()
import polars as pl
import pyarrow as pa

assert pa.array(["a", None]).to_pylist() == ["a", None]
assert pa.array([1.5]).to_numpy().tolist() == [1.5]
assert pl.Series(pa.array([1, 2]).to_numpy()).to_list() == [1, 2]
print("pandas" in sys.modules)
"""


def test_a_process_that_forgoes_pandas_converts_columns_without_it() -> None:
    done = subprocess.run([sys.executable, "-c", CONVERSIONS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
