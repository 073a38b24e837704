// What the build needs a real browser for: looking whether a deck fits, taking pictures of it, and printing a page.
//   node browser.mjs check DECK.html [FOLDER FOR PICTURES]    prints a JSON list of {slide, problem}
//   node browser.mjs print PAGE.html OUT.pdf                  prints the page as tagged PDF
import { pathToFileURL } from 'node:url'
import puppeteer from 'puppeteer-core'

const [job, page_path, out] = process.argv.slice(2)
const PATIENCE = 180_000 // milliseconds, for a busy machine
const root = process.getuid?.() === 0
const browser = await puppeteer.launch({
  executablePath: process.env.CHROME_PATH,
  timeout: PATIENCE,
  protocolTimeout: PATIENCE,
  args: ['--disable-background-networking', '--disable-component-update', '--no-first-run', ...(root ? ['--no-sandbox'] : [])],
})

// Runs in the page. Smallest text: 24 of 720 pixels' height; sources and page furniture 18.
function problemsOf(section) {
  const found = []
  const scale = section.getBoundingClientRect().width / 1280
  const style = getComputedStyle(section)
  const box = section.getBoundingClientRect()
  const inner = {
    left: box.left + parseFloat(style.paddingLeft) * scale - 2, right: box.right - parseFloat(style.paddingRight) * scale + 2,
    top: box.top + 16 * scale, bottom: box.bottom - parseFloat(style.paddingBottom) * scale + 2,
  }
  const say = (what, element) => found.push(`${what}: ${element.tagName.toLowerCase()} “${(element.textContent || element.alt || '').trim().slice(0, 60)}”`)
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number)
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor)
      if (colour.length < 4 || colour[3] === 1) return colour.slice(0, 3)
    }
    return [255, 255, 255]
  }
  for (const element of section.querySelectorAll('*')) {
    const at = element.getBoundingClientRect()
    if (element.closest('header, footer')) continue
    if (at.width && (at.left < inner.left || at.right > inner.right || at.top < inner.top || at.bottom > inner.bottom)) say('runs over the edge', element)
    if (element.scrollWidth > element.clientWidth + 2 && getComputedStyle(element).display !== 'inline' && element.tagName !== 'IFRAME') say('is wider than its box', element)
    if (element.tagName === 'IMG' && !(element.complete && element.naturalWidth)) say('does not load', element)
    if (element.tagName === 'IMG' && !element.alt.trim()) say('has no alternative text', element)
  }
  const walker = document.createTreeWalker(section, NodeFilter.SHOW_TEXT)
  const seen = new Set()
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    if (!walker.currentNode.data.trim() || seen.has(element) || ['STYLE', 'SCRIPT'].includes(element.tagName)) continue
    seen.add(element)
    const look = getComputedStyle(element)
    const [light, dark] = [luminance(numbers(look.color)), luminance(behind(element))].sort((a, b) => b - a)
    const contrast = (light + 0.05) / (dark + 0.05)
    if (contrast < 4.5) say(`has a contrast of ${contrast.toFixed(1)}, under 4.5`, element)
    const smallest = element.closest('header, footer, .source') ? 18 : 24
    if (parseFloat(look.fontSize) < smallest) say(`is ${look.fontSize} small, under ${smallest}px`, element)
    const range = document.createRange()
    range.selectNodeContents(walker.currentNode)
    const text = range.getBoundingClientRect()
    const holder = element.closest('pre, td, li, .voice')?.getBoundingClientRect()
    if (holder && (text.right > holder.right + 1 || text.bottom > holder.bottom + 1)) say('is clipped', element)
  }
  return found
}

async function check(page) {
  const problems = []
  page.on('request', (request) => {
    const url = request.url()
    if (!/^(file|data|blob|about):/.test(url)) problems.push({ slide: 0, problem: `asks the network for ${url}` })
    if (url.endsWith('/live.html')) request.abort() // it is checked by its own test, and heavy
    else request.continue()
  })
  await page.setRequestInterception(true)
  await page.setViewport({ width: 1280, height: 720 })
  await page.goto(pathToFileURL(page_path).href, { waitUntil: 'load' })
  await page.addStyleTag({ content: '.bespoke-marp-osc { display: none !important }' }) // the toolbar, not part of a slide
  const count = await page.evaluate(() => document.querySelectorAll('section[id]').length)
  for (let slide = 1; slide <= count; slide++) {
    await page.evaluate((number) => { location.hash = `#${number}` }, slide)
    await page.waitForFunction((number) => document.querySelectorAll('section[id]')[number - 1].checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }), {}, slide)
    const section = (await page.$$('section[id]'))[slide - 1]
    for (const problem of await section.evaluate(problemsOf)) problems.push({ slide, problem })
    if (out) await page.screenshot({ path: `${out}/${String(slide).padStart(2, '0')}.png` })
  }
  if (!count) problems.push({ slide: 0, problem: 'has no slides' })
  return problems
}

try {
  const page = await browser.newPage()
  page.setDefaultTimeout(PATIENCE)
  if (job === 'check') {
    console.log(JSON.stringify(await check(page)))
  } else {
    await page.goto(pathToFileURL(page_path).href, { waitUntil: 'load' })
    await page.pdf({ path: out, preferCSSPageSize: true, printBackground: true, tagged: true })
  }
} finally {
  await browser.close()
}
