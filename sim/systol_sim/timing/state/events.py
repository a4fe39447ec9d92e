"""What can happen in a run, for the coverage of random programs: a name and a place for each."""

_COVERAGE: list[str] = []


def _counted(what: str) -> int:
    """The place in the coverage of what random programs are to have met."""
    _COVERAGE.append(what)
    return len(_COVERAGE) - 1


C_WEIGHTS_STORE = _counted("unified buffer: weights loses to store")
C_MATRIX_STORE = _counted("unified buffer: matrix loses to store")
C_MATRIX_WEIGHTS = _counted("unified buffer: matrix loses to weights")
C_VECTOR_A_STORE = _counted("unified buffer: vector A loses to store")
C_VECTOR_A_WEIGHTS = _counted("unified buffer: vector A loses to weights")
C_VECTOR_A_MATRIX = _counted("unified buffer: vector A loses to matrix")
C_VECTOR_B_STORE = _counted("unified buffer: vector B loses to store")
C_VECTOR_B_WEIGHTS = _counted("unified buffer: vector B loses to weights")
C_VECTOR_B_MATRIX = _counted("unified buffer: vector B loses to matrix")
C_VECTOR_B_A = _counted("unified buffer: vector B loses to vector A")
C_VECTOR_ALONE = _counted("unified buffer: one of two operands is granted alone")
C_VECTOR_LOAD = _counted("unified buffer: vector write loses to load")
C_ACCUMULATOR = _counted("accumulators: vector loses to matrix")
C_WEIGHTS_FETCH = _counted("weight port: weights loses to fetch")
C_LOAD_FETCH = _counted("weight port: load loses to fetch")
C_LOAD_WEIGHTS = _counted("weight port: load loses to weights")
C_STORE_FETCH = _counted("weight port: store loses to fetch")
C_STORE_WEIGHTS = _counted("weight port: store loses to weights")
C_STORE_LOAD = _counted("weight port: store loses to load")
C_STORE_LOAD_HOST = _counted("host port: store loses to load")
C_LOAD_STORE_HOST = _counted("host port: load waits for a store burst")
C_BURST_KEPT = _counted("a burst keeps a higher rank waiting")
C_BURST_GAP = _counted("a burst's owner presents nothing")
C_PACED = _counted("a beat waits for credits")
C_STRADDLE = _counted("an access straddles banks")
C_SKIPS = _counted("skips")
C_SKIPPED = _counted("cycles skipped")
C_STREAMS = _counted("streams skipped")
C_STREAMED = _counted("cycles of streams skipped")
C_INTERRUPTED = _counted("a skip of streams ends within a tile's rows")
C_TILES = _counted("tiles skipped")
C_OUTPUTS = _counted("output rows skipped")
C_LOADED = _counted("beats of load skipped")
C_STORED = _counted("beats of store skipped")
COVERAGE_NAMES = tuple(_COVERAGE)
