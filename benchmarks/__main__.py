"""`python -m benchmarks NAME`: run one benchmark; without a name, list them."""

import sys
from importlib import import_module

NAMES = {
    "quickstart": "the quickstart over 3 seeds: means, spread, times (about 20 minutes on 2 cores)",
    "training": "a training step, its loss and its collation against sentence-transformers (about 8 minutes)",
    "encode": "encoding a corpus against sentence-transformers (about 20 minutes)",
    "memory": "peak memory of a step over batch size and text length (about 5 minutes)",
    "cross": "cross-encoders: memory of a step over list length, speed of re-ranking (about 10 minutes)",
    "search": "exact search of 100,000 vectors against faiss and sentence-transformers (about 2 minutes)",
    "bm25": "BM25 indexing and search against bm25s (about 1 minute)",
    "evaluation": "measures against pytrec_eval and ir_measures, run files against pytrec_eval (about 3 minutes)",
    "samples": "random training samples and memory a process against ByteDataset; --samples N (about 6 minutes)",
    "long": "a step over 512 to 8,192 tokens against sentence-transformers' cached loss (about 30 minutes)",
    "large": "memory of each step over corpus size; --documents N, --folder DIR (about 5 minutes)",
}

SHORT = ("bm25", "search", "evaluation", "training")

if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else None
    if asked != "short" and asked not in NAMES:
        print("\n".join(f"python -m benchmarks {name}   {text}" for name, text in NAMES.items()))
        print(f"python -m benchmarks short   {', '.join(SHORT)}")
        raise SystemExit(0 if asked is None else 2)
    for name in SHORT if asked == "short" else (asked,):
        import_module(f"benchmarks.{name}").main()
