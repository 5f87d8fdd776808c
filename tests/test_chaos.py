"Faults at every place that has a name; `make chaos` does the same hundreds of times."
import subprocess, sys
from pathlib import Path

def test_some_seeds_of_faults():
    p = subprocess.run([sys.executable, Path(__file__).with_name('chaos.py'), '--seed', '1000', '--seeds', '5'], capture_output=True, text=True, timeout=600)
    assert p.returncode == 0, p.stdout[-6000:] + p.stderr[-2000:]
    assert '5 seeds from 1000, 0 with a difference, 15 of 15 places passed (none not)' in p.stdout
