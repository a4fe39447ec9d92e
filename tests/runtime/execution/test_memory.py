"""A binary may state large batches: what is not given takes no more than its bytes."""

import numpy as np

from hand_made import compiled, copies, f32, quantized
from memory_peak import with_peak
from systol.execution.inputs import check_inputs
from systol.execution.ranges import RangeWatch
from systol.execution.values import RunValues

ITEMS, FEATURES = 1 << 19, 16


def test_a_run_that_is_not_filled_takes_a_byte_for_each_missing_value() -> None:
    shape = (ITEMS, FEATURES)
    x, y = quantized("x", shape, source="x"), quantized("y", shape, source="y")
    real = {"x": f32(*shape), "y": f32(*shape)}
    # The windows are too large for the machine to copy at once; nothing runs here.
    model = compiled([copies("m", [(x, y)])], [x, y], real, ["x"], {"y": "y"})
    given = np.arange(32, dtype=np.float32).reshape(2, FEATURES)
    (batch,) = check_inputs(model, {"x": given}).batches()
    values = RunValues(model, batch.arrays, batch.items, RangeWatch(model.tensors))
    codes, peak = with_peak(lambda: values.quantized("x"))
    assert codes.shape == shape and codes.nbytes == ITEMS * FEATURES
    assert (codes[2:] == codes[1]).all()
    assert peak < 3 * codes.nbytes, peak
    # An output's real values, too, are those of the given items alone.
    values.codes["y"] = codes
    outputs, peak = with_peak(lambda: values.own_real("y"))
    assert outputs.shape == given.shape
    assert peak < 1 << 16, peak
