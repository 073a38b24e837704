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
    seconds = []
    for _ in range(3):  # the best of three: another program may be busy
        run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        seconds.append(float(run.stdout))
    assert min(seconds) < 1.0
