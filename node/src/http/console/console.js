// The console's one script: searching, fetching, and renewing the figures. The number of a patient goes out in bodies
// only and is kept in this page's memory only. Fragments of HTML come from this node, escaped there. A regulator's page has neither search nor fetch.
'use strict';

const REFRESH_MS = 5000;
const by = id => document.getElementById(id);
// The number that the list belongs to, and how many were asked for.
let searched = '';
let searching = 0;
// The study that the dialog is open for.
let wanted = null;

// Times come in UTC; people read them by the clock on their wall. The Swedish way of writing is the hospital's: 2026-01-31 08:09:10.
function local(root) {
  for (const time of root.querySelectorAll('time')) {
    time.title = time.textContent;
    time.textContent = new Date(time.dateTime).toLocaleString('sv-SE');
  }
}

async function post(path, body) {
  return fetch(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
}

function notice(target, title, text, kind) {
  const box = document.createElement('div');
  box.className = 'notice ' + kind;
  const strong = document.createElement('strong');
  strong.textContent = title;
  const words = document.createElement('p');
  words.textContent = text;
  box.append(strong, words);
  target.replaceChildren(box);
}

by('history-form')?.addEventListener('submit', async event => {
  event.preventDefault();
  const target = by('history');
  const id = by('kind').value + by('number').value.trim();
  // An answer that comes after the next question is not shown: it is another patient's.
  const turn = (searching += 1);
  searched = '';
  target.textContent = 'Searching…';
  target.ariaBusy = 'true';
  let show = () => notice(target, 'The search was not done', 'This node does not answer.', 'bad');
  try {
    const response = await post('/console/history', { id, user: by('user')?.value.trim() ?? '' });
    const text = await response.text();
    show = () => {
      if (!response.ok) return notice(target, 'The search was not done', text, 'bad');
      searched = id;
      target.innerHTML = text;
      local(target);
    };
  } catch { /* It does not answer. */ }
  if (turn !== searching) return;
  show();
  target.ariaBusy = 'false';
});

by('history')?.addEventListener('click', event => {
  const button = event.target.closest('button.fetch');
  if (!button) return;
  wanted = { study: button.dataset.study, holder: button.dataset.holder, newer: button.dataset.newer === 'true', id: searched };
  by('fetch-what').textContent = button.dataset.what;
  by('fetch-result').replaceChildren();
  by('fetch-go').disabled = false;
  by('fetch-dialog').showModal();
});

by('fetch-cancel')?.addEventListener('click', () => by('fetch-dialog').close());
by('fetch-dialog')?.addEventListener('close', () => (wanted = null));

by('fetch-form')?.addEventListener('submit', async event => {
  event.preventDefault();
  const asked = wanted;
  const result = by('fetch-result');
  by('fetch-go').disabled = true;
  notice(result, 'Asking the holder…', 'The images follow once it has agreed.', 'plain');
  let show = () => notice(result, 'It could not be fetched', 'This node does not answer.', 'bad');
  try {
    const response = await post('/console/fetch', { ...asked, purpose: by('purpose').value, user: by('user').value.trim() });
    const answer = response.ok ? await response.json() : { title: 'It was not asked for', text: await response.text() };
    show = () => {
      notice(result, answer.title, answer.text, answer.opened ? 'good' : 'bad');
      if (answer.opened) window.location.assign('/viewer?StudyInstanceUIDs=' + encodeURIComponent(asked.study));
    };
  } catch { /* It does not answer. */ }
  // Closed since, or open for another study: nothing of this one may appear there, and no viewer may open by itself.
  if (wanted !== asked) return;
  show();
  by('fetch-go').disabled = false;
});

// Only the parts that changed are put in place: what a reader has selected, or reached by keyboard, stays.
function renew(target, html) {
  const fresh = document.createElement('template');
  fresh.innerHTML = html;
  local(fresh.content);
  const [old, now] = [[...target.children], [...fresh.content.children]];
  if (old.length !== now.length) {
    target.replaceChildren(...now);
    return;
  }
  old.forEach((part, place) => part.isEqualNode(now[place]) || part.replaceWith(now[place]));
}

async function refresh() {
  if (document.hidden) return;
  try {
    const response = await fetch('/console/status');
    if (response.ok) renew(by('live'), await response.text());
    document.body.classList.toggle('offline', !response.ok);
  } catch {
    document.body.classList.add('offline');
  }
}
local(document);
setInterval(refresh, REFRESH_MS);
document.addEventListener('visibilitychange', refresh);
