import subprocess
import sys

PROBE = """
import sys, time
start = time.perf_counter()
import pushback_lib, pushback_lib.cli
heavy = [name for name in ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets") if name in sys.modules]
assert not heavy, heavy
print(time.perf_counter() - start)
"""


def test_importing_the_package_is_quick_and_light():
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1.0
