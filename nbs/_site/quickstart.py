"""Run the commands of nbs/start/quickstart.md on the sample folder, and put what they print below them; then the Python
of nbs/guides/moving.md, which stands on what they made.

    python nbs/_site/quickstart.py"""
import os, re, subprocess, sys, tempfile
from pathlib import Path
from sample import make_folder

PAGE = Path(__file__).resolve().parents[1]/'start/quickstart.md'
MOVING = PAGE.parents[1]/'guides/moving.md'
STEP = re.compile(r'```sh\n(coderank_[^`]*)```\n\n```text\n(.*?)```', re.S) # a command, and what it printed
BLOCK = re.compile(r'```python\n([^`]*)```\n\n```text\n(.*?)```', re.S) # the same of Python

def steps(page=PAGE):
    "(command, what it printed) of each step."
    return [(step[1].strip(), step[2]) for step in STEP.finditer(page.read_text(encoding='utf-8'))]

def environment(folder):
    "With this Python's commands, as after installing into an environment that is active; with a cache of its own."
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'XDG_CACHE_HOME': str(folder/'cache')}

def run(command, folder):
    "What a command prints in a terminal; raises `CalledProcessError` where it fails."
    done = subprocess.run(command, shell=True, cwd=folder, env=environment(folder), text=True, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout

def run_python(code, folder):
    "What some Python prints; what is said on stderr is for people who wait."
    (folder/'block.py').write_text(code, encoding='utf-8')
    done = subprocess.run([sys.executable, 'block.py'], cwd=folder, env=environment(folder), text=True, check=True,
                          stdout=subprocess.PIPE)
    return done.stdout

def rewrite(page, pattern, said):
    "Put below each step of a page what it says now."
    def executed(step): return f'{step[0][:step.start(2) - step.start()]}{said(step[1])}```'
    page.write_text(pattern.sub(executed, page.read_text(encoding='utf-8')), encoding='utf-8')

def main():
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder)/'my_docs')
        rewrite(PAGE, STEP, lambda command: run(command.strip(), Path(folder)))
        rewrite(MOVING, BLOCK, lambda code: run_python(code, Path(folder)))

if __name__ == '__main__': main()
