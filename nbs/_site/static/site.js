// Opened as a file, a page may not read the others, so the search shows titles without excerpts.
if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// What scrolls by itself can be scrolled with the keyboard, too.
function letKeysScroll() {
  for (const box of document.querySelectorAll('article pre, article div, article table')) {
    const scrolls = /auto|scroll/.test(getComputedStyle(box).overflow);
    if (scrolls && (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight)) box.tabIndex = 0;
  }
}
addEventListener('load', letKeysScroll);
addEventListener('resize', letKeysScroll);
addEventListener('toggle', letKeysScroll, true);
