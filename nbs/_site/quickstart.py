"""Run the commands of nbs/start/quickstart.md on the sample folder, and put what they print below them.

    python nbs/_site/quickstart.py"""
import os, re, subprocess, sys, tempfile
from pathlib import Path
from sample import make_folder

PAGE = Path(__file__).resolve().parents[1]/'start/quickstart.md'
STEP = re.compile(r'```sh\n(coderank_[^`]*)```\n\n```text\n(.*?)```', re.S) # a command, and what it printed

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

def main():
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder)/'my_docs')
        def executed(step): return f'```sh\n{step[1]}```\n\n```text\n{run(step[1].strip(), Path(folder))}```'
        PAGE.write_text(STEP.sub(executed, PAGE.read_text(encoding='utf-8')), encoding='utf-8')

if __name__ == '__main__': main()
