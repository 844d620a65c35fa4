// Drives Debian's Chromium over a node's pages, as a person does: types, clicks, presses Tab, and waits for what appears.
//
// `node visit.mjs VISIT`, where VISIT is JSON: url of the node, profile (an empty folder), shots (a folder for pictures),
// playwright (the folder with node_modules), steps (see STEPS below; each is {do: NAME, ...}).
// Prints one JSON object: seen (what each step saw), requests (every address that any page or worker asked for),
// refused (what a page's policy stopped), errors.
//
// It judges nothing, the Rust test does. Every wait is for an event of the page, with a deadline.

import { createRequire } from 'node:module';
import { join } from 'node:path';

const WAIT_MS = 60_000;
const WIDTH = 1280;
const HEIGHT = 900;
/** Fewer are a spinner or a frame, and no picture. */
const LEVELS_MIN = 40;
/** A page with more stops than this would tire anybody. */
const TAB_STOPS_MAX = 60;

const visit = JSON.parse(process.argv[2]);
const origin = new URL(visit.url).origin;
const { chromium } = createRequire(join(visit.playwright, 'package.json'))('playwright-core');

const record = { seen: [], requests: [], refused: [], errors: [] };

function launch() {
  return chromium.launchPersistentContext(visit.profile, {
    executablePath: '/usr/bin/chromium',
    headless: true,
    viewport: { width: WIDTH, height: HEIGHT },
    locale: 'en-GB',
    timezoneId: 'Asia/Shanghai',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
      // No name resolves: what Chromium itself would tell its maker stays here as well.
      '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1',
    ],
  });
}

function watch(context, page) {
  context.on('request', request => record.requests.push(request.url()));
  page.on('websocket', socket => record.requests.push(socket.url()));
  page.on('pageerror', error => record.errors.push(String(error)));
  // A dialog can only come from a script that stood in data.
  page.on('dialog', dialog => {
    record.errors.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('console', message => {
    if (message.text().includes('Content Security Policy')) record.refused.push(message.text());
  });
}

/** What a reader sees, and what a screen reader would be told. */
function shown() {
  const visible = element => element.checkVisibility() && element.getClientRects().length > 0;
  const text = element => element.innerText.replace(/\s+/g, ' ').trim();
  const all = (selector, under = document) => [...under.querySelectorAll(selector)].filter(visible);
  const named = element =>
    element.getAttribute('aria-label') || element.labels?.[0]?.innerText || (element.matches('button, a') && text(element));
  const before = element => all('h2, h3').filter(heading => heading.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING);
  const table = element => ({
    title: text(before(element).pop()),
    head: [...element.tHead.rows[0].cells].map(text),
    rows: [...element.tBodies[0].rows].map(row => [...row.cells].map(text)),
  });
  const tile = element => ({
    title: text(element.querySelector('h2')),
    figure: text(element.querySelector('.figure')),
    facts: Object.fromEntries([...element.querySelectorAll('dt')].map(dt => [text(dt), text(dt.nextElementSibling)])),
  });
  return {
    url: location.pathname,
    title: document.title,
    lang: document.documentElement.lang,
    headings: all('h1, h2, h3').map(text),
    // While the next page is on its way there may be none.
    text: document.body ? text(document.body) : '',
    tiles: all('.tile').map(tile),
    tables: all('table').map(table),
    notices: all('.notice').map(element => ({
      title: text(element.querySelector('strong') ?? element),
      text: text(element),
    })),
    unnamed: all('input, select, button, a').filter(element => !named(element)).map(element => element.outerHTML),
    times: all('time').map(element => ({ utc: element.dateTime, text: text(element) })),
    overflow_px: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}

/** The largest canvas in figures, or nothing while it shows fewer than these levels of brightness. */
function pixels(levels_min) {
  const canvases = [...document.querySelectorAll('canvas')].filter(canvas => canvas.checkVisibility());
  const canvas = canvases.sort((a, b) => b.width * b.height - a.width * a.height)[0];
  if (!canvas || canvas.width * canvas.height === 0) return null;
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d');
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  const levels = new Uint32Array(256);
  let grey = 0;
  for (let at = 0; at < data.length; at += 4) {
    levels[data[at]] += 1;
    if (data[at] === data[at + 1] && data[at] === data[at + 2]) grey += 1;
  }
  const count = data.length / 4;
  const used = levels.filter(pixels => pixels > 0).length;
  return used < levels_min ? null : { levels: used, grey: grey / count, commonest: Math.max(...levels) / count, width: canvas.width, height: canvas.height };
}

/** Whether the focused element can be told from the others, and which it is. */
function focused() {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const style = getComputedStyle(element);
  const { top, bottom, left, right } = element.getBoundingClientRect();
  return {
    element: element.tagName.toLowerCase() + (element.id ? `#${element.id}` : ` ${element.innerText.trim()}`),
    outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
    on_screen: top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth,
  };
}

const STEPS = {
  async open(page, { path }) {
    await page.goto(origin + path, { timeout: WAIT_MS });
    return page.evaluate(shown);
  },

  async resize(page, { width, height }) {
    await page.setViewportSize({ width, height });
    return page.evaluate(shown);
  },

  async read(page) {
    return page.evaluate(shown);
  },

  /** Waits until the page says so. */
  async says(page, { text }) {
    await page.getByText(text).first().waitFor({ timeout: WAIT_MS });
    return page.evaluate(shown);
  },

  /** By the kind that the page offers for the number, or else written in full. */
  async search(page, { kind, number }) {
    const kinds = page.getByLabel('Kind of number');
    const offered = await kinds.locator(`option[value="${kind}"]`).count();
    await kinds.selectOption(offered ? kind : '');
    await page.getByLabel('Number', { exact: true }).fill(offered ? number : kind + number);
    await page.getByRole('button', { name: 'Search' }).click();
    await page.locator('#history[aria-busy=false] > *').first().waitFor({ timeout: WAIT_MS });
    return page.evaluate(shown);
  },

  /** Fills in and confirms; waits for the answer, or for the viewer when the study came. */
  async fetch(page, { study, user, purpose }) {
    await page.locator(`button[data-study="${study}"]`).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('What for').selectOption(purpose);
    await dialog.getByLabel('In whose name').fill(user);
    await dialog.getByRole('button', { name: 'Fetch and open' }).click();
    await Promise.any([
      dialog.locator('.notice.bad').waitFor({ timeout: WAIT_MS }),
      page.waitForURL('**/viewer?**', { timeout: WAIT_MS, waitUntil: 'commit' }),
    ]);
    return page.evaluate(shown);
  },

  async close(page) {
    await page.getByRole('dialog').getByRole('button', { name: 'Close' }).click();
    await page.getByRole('dialog').waitFor({ state: 'hidden', timeout: WAIT_MS });
    return page.evaluate(shown);
  },

  /** Opens a study that is here, by the link in its row. */
  async view(page, { study }) {
    await page.locator(`a[href$="StudyInstanceUIDs=${study}"]`).first().click();
    await page.waitForURL('**/viewer?**', { timeout: WAIT_MS, waitUntil: 'commit' });
    return page.evaluate(shown);
  },

  /** Waits until the viewer has drawn an image. */
  async image(page) {
    const drawn = await page.waitForFunction(pixels, LEVELS_MIN, { timeout: WAIT_MS, polling: 100 });
    return { ...(await page.evaluate(shown)), image: await drawn.jsonValue() };
  },

  /** Presses Tab through the page, once around. */
  async tab(page) {
    const stops = [];
    while (stops.length < TAB_STOPS_MAX) {
      await page.keyboard.press('Tab');
      const stop = await page.evaluate(focused);
      if (!stop) break;
      stops.push(stop);
    }
    return stops;
  },

  async script(page, { text }) {
    return page.evaluate(text);
  },

  async shot(page, { name, whole }) {
    await page.screenshot({ path: join(visit.shots, `${name}.png`), fullPage: whole });
    return null;
  },
};

const context = await launch();
try {
  const page = context.pages()[0] ?? (await context.newPage());
  watch(context, page);
  for (const step of visit.steps) {
    try {
      record.seen.push(await STEPS[step.do](page, step));
    } catch (error) {
      await page.screenshot({ path: join(visit.shots, 'failed.png') }).catch(() => {});
      throw new Error(`step ${JSON.stringify(step)}: ${error.message}\n${await page.evaluate(shown).then(JSON.stringify).catch(String)}`);
    }
  }
} finally {
  await context.close();
}
console.log(JSON.stringify(record));
